-- What an agent may ask tokens for, and the public keys it may prove itself with.

-- +goose Up

-- Absolute URIs; a token for some of them has them as its audience.
ALTER TABLE registry.agents
    ADD COLUMN allowed_resources text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT agents_allowed_resources_count CHECK (cardinality(allowed_resources) <= 16);

-- Beside the agents, not in their row: lists do not read it, and a set of keys is larger than all the rest of an agent.
CREATE TABLE registry.agent_keys (
    agent_id uuid NOT NULL,
    -- A JWK set of public keys, as it is answered; null where jwks_uri says where it is.
    jwks     json,
    jwks_uri text,
    CONSTRAINT agent_keys_pkey PRIMARY KEY (agent_id),
    CONSTRAINT agent_keys_agent FOREIGN KEY (agent_id) REFERENCES registry.agents (agent_id),
    CONSTRAINT agent_keys_either CHECK (num_nonnulls(jwks, jwks_uri) = 1)
);

GRANT UPDATE (allowed_resources) ON registry.agents TO registry_app;
GRANT SELECT, INSERT, UPDATE (jwks, jwks_uri), DELETE ON registry.agent_keys TO registry_app;

-- +goose Down

DROP TABLE registry.agent_keys;
ALTER TABLE registry.agents DROP COLUMN allowed_resources;
