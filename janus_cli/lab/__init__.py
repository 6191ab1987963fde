"""bench, compare, report, demo: measuring and showing what the toolkit does; imported by these four commands only."""
