"""One or several runs as a page for people: what `janus report` writes."""
