-- A message of the stream may hold several events, one a line, of which each can end as a dead
-- letter. A service that is older than this takes such a message for one dead letter. The
-- table is small where somebody looks after it, so the index is made while nobody writes.

-- +goose Up
SET LOCAL lock_timeout = '2s';
ALTER TABLE audit.dead_letters
    ADD COLUMN line integer NOT NULL DEFAULT 0, -- in the message, from 0
    DROP CONSTRAINT dead_letters_message,
    ADD CONSTRAINT dead_letters_message UNIQUE (stream_sequence, published_at, line);

-- +goose Down
-- Fails where several lines of one message are kept: publish them again and delete them first.
SET LOCAL lock_timeout = '2s';
ALTER TABLE audit.dead_letters
    DROP CONSTRAINT dead_letters_message,
    DROP COLUMN line,
    ADD CONSTRAINT dead_letters_message UNIQUE (stream_sequence, published_at);
