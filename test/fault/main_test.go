package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/test/internal/rig"
)

func TestAScheduleThatIsShownSaysItsSeed(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-show", "-duration", "1m"}, {"-show", "-duration", "1m", "-seed", "7"}} {
		var shown, same bytes.Buffer
		require.NoError(t, command(t.Context(), args, &shown))
		var seed uint64
		_, err := fmt.Sscanf(shown.String(), "seed %d, 1m0s\n", &seed)
		require.NoError(t, err)
		list(&same, plan(seed, time.Minute, everyTarget(rig.Names(replicas))))
		require.Equal(t, fmt.Sprintf("seed %d, 1m0s\n%s", seed, &same), shown.String())
	}
}
