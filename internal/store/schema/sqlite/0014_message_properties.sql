-- +goose Up
-- What a publisher said about a message beside its payload, in the form of the
-- door that took it: the properties of an MQTT 5 PUBLISH as they travel. NULL if
-- nothing.
ALTER TABLE messages ADD COLUMN properties BLOB;
