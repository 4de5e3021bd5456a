// Package rollout tests what changes while the system runs, with the real programs: certificates and the internal token
// that services prove themselves with, and releases, of which one follows the other without downtime. It holds nothing but
// tests.
package rollout
