// Package keys holds the keys this service signs tokens with: it makes them,
// keeps them sealed in the store, shares them between replicas, moves them
// through next, active and retired, and publishes their public halves as a JWKS
// (RFC 7517). It must not know what is signed with them, and no private key
// leaves it in any form but a signature or a sealed row.
package keys
