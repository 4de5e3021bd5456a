// Package dev runs the whole of AgentIdP on one machine for whoever wants to try it or build against it:
// the four services in one process behind one ingress port, with the Postgres, Redis and NATS servers
// they need, their keys and a first operator. Everything it keeps stays in one data directory.
//
// It is a launcher. It must not contain a rule of the product, and nothing here is meant for production:
// there every service runs on its own.
package dev
