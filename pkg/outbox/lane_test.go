package outbox

import (
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestAnIDThatJetStreamIsStillTellingItsReplicasOfIsNoRefusal(t *testing.T) {
	t.Parallel()
	relay := &Relay{log: slog.New(slog.DiscardHandler)}
	for code, refused := range map[jetstream.ErrorCode]int{inProcess: 0, jetstream.JSErrCodeStreamMessageExceedsMaximum: 1} {
		var out outcome
		out.add(relay, claimed{}, &jetstream.APIError{Code: 409, ErrorCode: code})
		require.Len(t, out.refused, refused)
		require.Len(t, out.kept, 1-refused)
	}
}
