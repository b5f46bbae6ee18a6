"""`embedserve bench`: a load generator for embedding APIs, and the report of what it measured. A client of HTTP like any other."""
