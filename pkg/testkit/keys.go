package testkit

import (
	"context"

	"github.com/sentryagent/agentidp/pkg/authn"
)

// StaticKeys is an authn.KeySet that never changes.
type StaticKeys []authn.Key

var _ authn.KeySet = StaticKeys(nil)

// Key gives the key with that id, or authn.ErrUnknownKey.
func (s StaticKeys) Key(_ context.Context, kid string) (authn.Key, error) {
	for _, k := range s {
		if k.ID == kid {
			return k, nil
		}
	}
	return authn.Key{}, authn.ErrUnknownKey
}
