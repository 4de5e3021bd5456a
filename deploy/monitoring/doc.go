// Package monitoring has the tests of what lies beside it: Prometheus' rules and Grafana's dashboards say nothing that the
// services do not export, alerts fire when they should and not else, and each has its section in docs/runbooks.md. It is a
// module of its own, outside of the workspace, so that Prometheus chooses nobody else's dependencies.
package monitoring
