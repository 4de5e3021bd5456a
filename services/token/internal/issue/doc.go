// Package issue is what the token service decides: whether a client is who it
// says (RFC 6749 §2.3), which scopes it gets, what stands in its access token
// (RFC 9068), whether a token is live (RFC 7662), and what it takes to revoke one
// (RFC 7009). It knows no HTTP, SQL or Redis, and must not answer what it could
// not look up: that is a Refusal of the kind Unavailable, never a guess.
package issue
