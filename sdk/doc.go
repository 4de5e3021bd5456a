// Package agentidp is the Go client of AgentIdP, the identity provider for AI
// agents: it gets access tokens for an agent, and registers, reads and changes
// agents, their credentials and the audit trail.
//
// A [Client] authenticates as one agent, with the OAuth 2.0 client credentials
// grant (RFC 6749 section 4.4) and a secret. Public keys are registered here, but to
// sign assertions with the private ones (RFC 7523) is left to the caller. The Client
// fetches a token when the first request needs one and the next one in the background,
// shortly before the first expires, and gets a new one when the server no longer takes
// the old one. [Client.TokenSource] lends the same tokens to golang.org/x/oauth2, for
// the agent's requests to other APIs.
//
// Failures are typed: an [*Error] carries the code of the API, an [*OAuthError]
// the code of RFC 6749 section 5.2; both are found with [errors.As]. Requests are
// repeated by themselves where a second execution does no harm, with growing
// delays, and never before the moment the server names in Retry-After.
//
// The package depends on the standard library and golang.org/x/oauth2 only, keeps
// no global state, never logs, and never puts a secret or a token into an error.
package agentidp
