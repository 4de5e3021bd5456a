// Package rig sets the whole system up for tests and benchmarks as operators run it: the four services as processes of their
// own, built from this tree, with a real Postgres, Redis and NATS server, on free ports of 127.0.0.1 and with their data
// in one temporary directory. It can end, freeze and empty any of them. It measures nothing itself; it only tells what the
// servers have counted. It must never touch a server that it did not start.
package rig
