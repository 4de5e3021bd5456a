package quota

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPlaceIsAnAddressOrAnIPv6Network(t *testing.T) {
	t.Parallel()
	for address, place := range map[string]string{
		"192.0.2.1":                "192.0.2.1",
		"::ffff:192.0.2.1":         "192.0.2.1",
		"2001:db8:0:1::1":          "2001:db8:0:1::/64",
		"2001:db8:0:1:ffff::1":     "2001:db8:0:1::/64",
		"2001:db8:0:2::1":          "2001:db8:0:2::/64",
		"fe80::1%eth0":             "fe80::/64",
		"":                         "",
		"what a proxy never sends": "what a proxy never sends",
	} {
		require.Equal(t, place, placeOf(address))
	}
}
