"""`janus compare`: several objectives trained, decoded and scored under equal conditions."""
