package agentidp

import (
	"context"
	"encoding/json"
	"net/http"
)

// AgentKeys are the public keys with which an agent may prove who it is, by a
// signed assertion instead of a secret (private_key_jwt, RFC 7523 section 2.2).
// Exactly one of the two is there.
type AgentKeys struct {
	// JWKS is a JWK set of 1 to 16 public keys: RSA from 2048 bit, P-256 or Ed25519.
	// The provider refuses private keys, and answers a set with what it has kept of
	// it: kty, use, kid, alg and the public parameters.
	JWKS json.RawMessage `json:"jwks,omitempty"`
	// JWKSURI is the https URI the provider fetches the set from. Its host must be
	// public.
	JWKSURI string `json:"jwksUri,omitempty"`
	// ETag names the state of the agent with these keys. SetKeys and RemoveKeys
	// raise it.
	ETag string `json:"-"`
	// IfMatch makes SetKeys fail with CodePreconditionFailed if the agent is no
	// longer in the state with this ETag: two who change single keys of one set need
	// it. Empty means no condition.
	IfMatch string `json:"-"`
}

// Keys returns the keys that are registered for an agent; an [*Error] with
// [CodeAgentKeysNotFound] if there are none. It needs agents:read.
func (a *Agents) Keys(ctx context.Context, agentID string) (AgentKeys, error) {
	return a.keys(ctx, agentID, call{method: http.MethodGet, repeatable: true})
}

// SetKeys registers keys for an agent, in place of all that it had, and returns
// what the provider keeps. It needs what Update needs.
func (a *Agents) SetKeys(ctx context.Context, agentID string, keys AgentKeys) (AgentKeys, error) {
	return a.keys(ctx, agentID, call{
		method: http.MethodPut, json: keys, header: ifMatch(keys.IfMatch),
		// After an answer that got lost the agent is in another state.
		repeatable: keys.IfMatch == "",
	})
}

// RemoveKeys takes the registered keys of an agent away; an [*Error] with
// [CodeAgentKeysNotFound] if there are none, or with [CodePreconditionFailed] if the
// agent is no longer in the state with the ETag; an empty one means no condition. It
// needs what Update needs.
func (a *Agents) RemoveKeys(ctx context.Context, agentID, etag string) error {
	path, err := path("/agents/{}/keys", agentID)
	if err != nil {
		return err
	}
	_, err = a.client.do(ctx, call{method: http.MethodDelete, path: path, header: ifMatch(etag)})
	return err
}

func (a *Agents) keys(ctx context.Context, agentID string, r call) (AgentKeys, error) {
	path, err := path("/agents/{}/keys", agentID)
	if err != nil {
		return AgentKeys{}, err
	}
	var keys AgentKeys
	r.path, r.out = path, &keys
	header, err := a.client.do(ctx, r)
	if err != nil {
		return AgentKeys{}, err
	}
	keys.ETag = header.Get("ETag")
	return keys, nil
}

// ifMatch is the header for a condition, nil for none.
func ifMatch(etag string) http.Header {
	if etag == "" {
		return nil
	}
	return http.Header{"If-Match": {etag}}
}
