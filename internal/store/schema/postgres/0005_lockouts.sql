-- +goose Up
-- The tables of schema/sqlite/0005_lockouts.sql, which explains them.
CREATE TABLE lockouts (
  gate     BYTEA PRIMARY KEY,
  failures BIGINT NOT NULL,
  until    BIGINT NOT NULL,
  forget   BIGINT NOT NULL
);
CREATE INDEX lockouts_by_forget ON lockouts (forget);
