"""The verbs of the command line that join several wings, a file a verb."""
