package jwk_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sentryagent/agentidp/pkg/jwk"
)

func TestURIsThatASetMayBeFetchedFrom(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"https://agent.example.com/jwks.json",
		"https://agent.example.com",
		"HTTPS://Agent.Example.COM:8443/a%20b?tenant=7",
		"https://xn--bcher-kva.example/keys",
		"https://agent.example.com./jwks.json",
		"https://8.8.8.8/jwks.json",
		"https://[2606:4700::1111]:443/jwks.json",
		"https://a.example/" + strings.Repeat("a", jwk.MaxURI-len("https://a.example/")),
	} {
		require.Empty(t, jwk.CheckURI(uri), uri)
	}
}

func TestURIsThatNoSetIsFetchedFrom(t *testing.T) {
	t.Parallel()
	for name, uri := range map[string]string{
		"empty":                          "",
		"relative":                       "/jwks.json",
		"without a scheme":               "//agent.example.com/jwks.json",
		"http":                           "http://agent.example.com/jwks.json",
		"file":                           "file:///etc/passwd",
		"opaque":                         "https:agent.example.com",
		"without a host":                 "https:///jwks.json",
		"with a user":                    "https://user@agent.example.com/",
		"with an empty user":             "https://@agent.example.com/",
		"with a fragment":                "https://agent.example.com/#keys",
		"with an empty fragment":         "https://agent.example.com/#",
		"with a blank":                   "https://agent.example.com/a b",
		"with a line end":                "https://agent.example.com/\n",
		"beyond ASCII":                   "https://bücher.example/",
		"too long":                       "https://a.example/" + strings.Repeat("a", jwk.MaxURI),
		"with port 0":                    "https://agent.example.com:0/",
		"with port 65536":                "https://agent.example.com:65536/",
		"with an empty port":             "https://agent.example.com:/",
		"localhost":                      "https://localhost/",
		"localhost with a dot":           "https://LOCALHOST./",
		"a name under localhost":         "https://keys.localhost/",
		"a name of mDNS":                 "https://printer.local/",
		"a name of a cloud's own":        "https://metadata.google.internal/",
		"a name in a cluster's domain":   "https://registry.agentidp.svc.cluster.local/",
		"a single label":                 "https://registry/",
		"a name with an underscore":      "https://a_b.example/",
		"a name with an empty label":     "https://a..example/",
		"a label that is too long":       "https://" + strings.Repeat("a", 64) + ".example/",
		"loopback":                       "https://127.0.0.1/",
		"another loopback":               "https://127.8.8.8/",
		"loopback in short":              "https://127.1/",
		"loopback as a number":           "https://2130706433/",
		"loopback in hexadecimal":        "https://0x7f000001/",
		"loopback in hexadecimal octets": "https://0x7f.0.0.0x1/",
		"loopback of IPv6":               "https://[::1]/",
		"unspecified":                    "https://0.0.0.0/",
		"private":                        "https://10.0.0.1/",
		"private of IPv6":                "https://[fd00::1]/",
		"link-local, the metadata":       "https://169.254.169.254/",
		"link-local of IPv6":             "https://[fe80::1]/",
		"an address with a zone":         "https://[fe80::1%25eth0]/",
		"mapped into IPv6":               "https://[::ffff:127.0.0.1]/",
		"multicast":                      "https://224.0.0.1/",
		"carrier-grade NAT":              "https://100.64.0.1/",
		"a cloud's metadata":             "https://168.63.129.16/",
	} {
		require.NotEmpty(t, jwk.CheckURI(uri), name)
	}
}

func TestWhichAddressesArePublic(t *testing.T) {
	t.Parallel()
	for address, public := range map[string]bool{
		"1.1.1.1":                            true,
		"172.15.255.255":                     true,
		"172.16.0.1":                         false,
		"172.32.0.1":                         true,
		"192.168.0.1":                        false,
		"100.63.255.255":                     true,
		"100.127.255.255":                    false,
		"100.128.0.1":                        true,
		"168.63.129.15":                      true,
		"168.63.129.16":                      false,
		"::ffff:168.63.129.16":               false,
		"192.0.0.8":                          false,
		"93.184.216.34":                      true,
		"8.8.8.8":                            true,
		"2606:2800:220:1:248:1893:25c8:1946": true,
		"127.0.0.1":                          false,
		"127.255.255.254":                    false,
		"::1":                                false,
		"0.0.0.0":                            false,
		"0.255.255.255":                      false,
		"10.0.0.1":                           false,
		"172.31.255.255":                     false,
		"192.168.1.1":                        false,
		"fd00::1":                            false,
		"169.254.169.254":                    false,
		"fe80::1":                            false,
		"fe80::1%eth0":                       false,
		"fec0::1":                            false,
		"fd00:ec2::254":                      false,
		"100.64.0.1":                         false,
		"100.100.100.200":                    false,
		"192.0.0.192":                        false,
		"198.18.0.1":                         false,
		"224.0.0.1":                          false,
		"::ffff:127.0.0.1":                   false,
		"::ffff:169.254.169.254":             false,
		"64:ff9b::7f00:1":                    false,
		"64:ff9b::a9fe:a9fe":                 false,
		"64:ff9b:1::1":                       false,
		"2001::1":                            false,
		"192.0.2.255":                        false,
		"198.19.0.1":                         false,
		"198.51.100.255":                     false,
		"203.0.113.255":                      false,
		"192.88.99.255":                      false,
		"239.1.2.3":                          false,
		"240.0.0.1":                          false,
		"255.255.255.254":                    false,
		"255.255.255.255":                    false,
		"2606:4700::1111":                    true,
		"2001:4860:4860::8888":               true,
		"2001:1ff::1":                        false,
		"2001:200::1":                        true,
		"2001:db8:ffff::1":                   false,
		"2002:7f00:1::":                      false,
		"2002:c0a8:1::":                      false,
		"3fff:fff::1":                        false,
		"3fff:1000::1":                       true,
		"::":                                 false,
		"::ffff:8.8.8.8":                     true,
		"::ffff:8.8.8.8%eth0":                false,
		"::ffff:10.0.0.1":                    false,
		"::127.0.0.1":                        false,
		"64:ff9b::8.8.8.8":                   true,
		"64:ff9b::172.32.0.1":                true,
		"64:ff9b::10.0.0.1":                  false,
		"64:ff9b:1::a00:1":                   false,
		"fc00::1":                            false,
		"ff02::1":                            false,
		"2606:4700::1111%eth0":               false,
		"2606:4700:4700::1:1:1:":             false,
	} {
		parsed, _ := netip.ParseAddr(address)
		require.Equal(t, public, jwk.PublicAddr(parsed), address)
	}
}
