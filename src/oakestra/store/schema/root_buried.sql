-- What was deleted, so that no cluster that comes back late brings it back.
CREATE TABLE buried (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
