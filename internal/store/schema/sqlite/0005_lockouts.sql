-- +goose Up
-- Failed sign-ins in a row. The gate is a keyed hash of a login, known or not:
-- people type passwords into the wrong field.
CREATE TABLE lockouts (
  gate     BLOB PRIMARY KEY,
  failures INTEGER NOT NULL,
  until    INTEGER NOT NULL, -- no attempt is looked at before
  forget   INTEGER NOT NULL  -- when the row no longer counts
) STRICT, WITHOUT ROWID;
CREATE INDEX lockouts_by_forget ON lockouts (forget);
