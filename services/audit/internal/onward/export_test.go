package onward

// What the tests of this package see of its inside.
const (
	Look      = look
	LastRetry = lastRetry
)

// Retry is the pause after a failure.
var Retry = retry
