"""The command line: verbs that parse, call a workflow and print."""
