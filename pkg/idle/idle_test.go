package idle_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/sentryagent/agentidp/pkg/idle"
)

func TestItWaitsForTheTimeAndNoLongerThanTheContext(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		waits, lives, passes time.Duration
		err                  error
	}{
		"the time passes":        {waits: time.Minute, lives: time.Hour, passes: time.Minute},
		"the context ends first": {waits: time.Hour, lives: time.Minute, passes: time.Minute, err: context.DeadlineExceeded},
		"it ended before":        {waits: time.Hour, err: context.DeadlineExceeded},
		"nothing to wait for":    {lives: time.Hour},
		"a moment of the past":   {waits: -time.Hour, lives: time.Hour},
		"and nobody who waits":   {waits: -time.Hour, err: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.lives)
				defer cancel()
				began := time.Now()
				err := idle.For(ctx, test.waits)
				assert.ErrorIs(t, err, test.err)
				assert.Equal(t, test.passes, time.Since(began))
			})
		})
	}
}
