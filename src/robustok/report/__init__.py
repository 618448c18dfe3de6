"""The folder of a run -> one self-contained HTML page (`page`); scores of several systems -> a table of them."""
