-- What a sink of kind `otlp` has summed up to its cursor, JSON: it moves in the transaction that moves the cursor.
ALTER TABLE sinks ADD COLUMN sums BLOB;
