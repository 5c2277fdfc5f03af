-- Where services come from, for a root that lost its records.
CREATE TABLE origins (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
