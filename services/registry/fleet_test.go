package registry

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func TestTheFleetIsShownBesideItsLimitAndKeptWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	metrics, living := prometheus.NewRegistry(), int64(98)
	var away error
	f := newFleet(metrics, 100, func(context.Context) (int64, error) { return living, away })
	f.look(t.Context())
	living, away = 0, errors.New("away")
	f.look(t.Context())
	require.NoError(t, testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP agentidp_agents Registered agents that are not decommissioned.
# TYPE agentidp_agents gauge
agentidp_agents 98
# HELP agentidp_agents_limit Most agents that may be registered and not decommissioned, 0 for no limit.
# TYPE agentidp_agents_limit gauge
agentidp_agents_limit 100
`)))
}
