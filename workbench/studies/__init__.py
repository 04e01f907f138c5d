"""One study per question: models, protocol, table. May import all but explore and the command line."""
