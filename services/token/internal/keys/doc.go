// Package keys holds the keys this service signs tokens with: it makes them,
// or takes an operator's, keeps them sealed in the store, shares them between
// replicas, moves them through next, active, retired and gone, by schedule and by
// command, and publishes their public halves as a JWKS
// (RFC 7517). It must not know what is signed with them, and no private key
// leaves it in any form but a signature or a sealed row.
package keys
