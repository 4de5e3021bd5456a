package k8s

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// forOthers are connections that Postgres keeps for superusers, and that migrations, retention and an exporter take.
const forOthers = 20

// number is what the first group of a pattern finds in a text.
func number(t *testing.T, pattern, text string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	require.NotNil(t, found, pattern)
	n, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return n
}

func contents(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

func TestPostgresHoldsTheConnectionsOfEveryReplica(t *testing.T) {
	t.Parallel()
	// One more listens, beside the pool.
	each := number(t, "(?m)^\\| `DATABASE_MAX_CONNS` \\| all \\| `([0-9]+)`", contents(t, "../../README.md")) + 1
	offered := number(t, `max_connections: "([0-9]+)"`, contents(t, "../../docs/deployment.md"))
	everyVariant(t, func(t *testing.T, v built) {
		most, surging := 0, 0
		for _, scaler := range of[*autoscalingv2.HorizontalPodAutoscaler](v) {
			most += int(scaler.Spec.MaxReplicas)
			for _, deployment := range of[*appsv1.Deployment](v) {
				if deployment.Name != scaler.Name {
					continue
				}
				surge, err := intstr.GetScaledValueFromIntOrPercent(deployment.Spec.Strategy.RollingUpdate.MaxSurge, int(scaler.Spec.MaxReplicas), true)
				require.NoError(t, err)
				surging += surge
			}
			require.NotContains(t, configMap(t, v, scaler.Name+"-config").Data, "DATABASE_MAX_CONNS", "this sum is of the default")
		}
		require.Positive(t, surging)
		sum := each * (most + surging + surging) // as many drain as start
		holds := offered
		if strings.HasPrefix(v.name, "kind") {
			for _, w := range workloads(v) {
				if w.name == "StatefulSet/postgres" {
					holds = number(t, "max_connections=([0-9]+)", strings.Join(w.container(t).Args, " "))
				}
			}
		} else {
			require.Contains(t, contents(t, "README.md"), fmt.Sprintf("%d × (%d + %d + %d) = %d connections", each, most, surging, surging, sum))
		}
		require.LessOrEqual(t, sum+forOthers, holds)
	})
}
