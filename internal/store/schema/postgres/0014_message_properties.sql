-- +goose Up
-- The column of schema/sqlite/0014_message_properties.sql, which explains it.
ALTER TABLE messages ADD COLUMN properties BYTEA;
