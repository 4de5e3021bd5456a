// Package assertion reads and verifies client assertions: the JWTs by which a
// client proves who it is without a secret (private_key_jwt; RFC 7523 §2.2 and §3,
// with the one audience that its revision asks for, and RFC 8725). It knows one
// assertion at a time: it must not look up clients or keys, and what it read is a
// claim of whoever sent it until both Check and Verify are content.
package assertion
