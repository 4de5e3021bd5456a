// Package devservers runs the servers that AgentIdP needs on a developer's machine: Postgres and
// Redis from programs that are installed, NATS inside of this process. It is for `agentidp dev` and
// for tests. No service may import it, and it never touches a server that it did not start.
package devservers

import "errors"

// ErrNotFound means that the program of a server is not on this machine.
var ErrNotFound = errors.New("server program not found")

// Superuser is the role that StartPostgres creates the cluster with.
const Superuser = "postgres"
