package jwk

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// MaxURI is the longest jwksUri, in characters.
const MaxURI = 2048

var (
	dnsName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// numericLabel is the last label of a host that URL parsers take for an IPv4 address: "127.1", "0x7f.1".
	numericLabel = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

// CheckURI says what is wrong with the URI of a client's set, or "". It must be an absolute https URI of at most 2048 visible
// ASCII characters, without userinfo and fragment, whose host is a public address or a name that can be one: names without a
// dot, and those under localhost, local and internal, are looked up in the network of whoever fetches, which is not for a
// client to look into. What a name leads to shows only when it is looked up: that is PublicAddr's to judge then.
func CheckURI(raw string) string {
	if raw == "" || len(raw) > MaxURI {
		return fmt.Sprintf("must be an https URI of at most %d characters", MaxURI)
	}
	if strings.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0 {
		return "must have visible ASCII characters only"
	}
	uri, err := url.Parse(raw)
	if err != nil || uri.Scheme != "https" || uri.Host == "" || uri.Opaque != "" {
		return "must be an absolute https URI"
	}
	if uri.User != nil {
		return "must have no user name or password in it"
	}
	if strings.Contains(raw, "#") {
		return "must have no fragment"
	}
	if !goodPort(uri) {
		return "must have a port from 1 to 65535, or none"
	}
	return checkHost(strings.ToLower(uri.Hostname()))
}

func goodPort(uri *url.URL) bool {
	text := uri.Port()
	if text == "" {
		return !strings.HasSuffix(uri.Host, ":")
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

func checkHost(host string) string {
	const notPublic = "must not lead to a loopback, private, link-local or otherwise special address"
	if addr, err := netip.ParseAddr(host); err == nil {
		if !PublicAddr(addr) {
			return notPublic
		}
		return ""
	}
	host = strings.TrimSuffix(host, ".")
	if numericLabel.MatchString(host) {
		return "must have a host name or an IP address in its usual form"
	}
	for _, special := range []string{"localhost", "local", "internal"} {
		if host == special || strings.HasSuffix(host, "."+special) {
			return notPublic
		}
	}
	const maxName = 253 // RFC 1035 §2.3.4
	if len(host) > maxName || !dnsName.MatchString(host) {
		return "must have a fully qualified host name or an IP address"
	}
	return ""
}

// specialPrefixes are the blocks of the IANA special-purpose registries (RFC 6890) that netip's predicates do not cover, and
// the one address of cloud metadata that looks public.
func specialPrefixes() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),        // this network
		netip.MustParsePrefix("100.64.0.0/10"),    // carrier-grade NAT
		netip.MustParsePrefix("168.63.129.16/32"), // Azure's own services
		netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
		netip.MustParsePrefix("192.0.2.0/24"),     // documentation
		netip.MustParsePrefix("192.88.99.0/24"),   // 6to4 relays
		netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
		netip.MustParsePrefix("198.51.100.0/24"),  // documentation
		netip.MustParsePrefix("203.0.113.0/24"),   // documentation
		netip.MustParsePrefix("240.0.0.0/4"),      // reserved, and broadcast
		netip.MustParsePrefix("2001::/23"),        // protocol assignments, Teredo among them
		netip.MustParsePrefix("2001:db8::/32"),    // documentation
		netip.MustParsePrefix("2002::/16"),        // 6to4: holds any IPv4 address
		netip.MustParsePrefix("3fff::/20"),        // documentation
	}
}

// PublicAddr reports whether an address is one of the public internet: not loopback, private, link-local, multicast,
// unspecified, carrier-grade NAT or of another special block. An IPv4 address that is mapped into IPv6, or translated by NAT64
// (RFC 6052), is judged as what it is.
func PublicAddr(addr netip.Addr) bool {
	if addr.Zone() != "" {
		return false
	}
	addr = addr.Unmap()
	if netip.MustParsePrefix("64:ff9b::/96").Contains(addr) {
		octets := addr.As16()
		addr = netip.AddrFrom4([4]byte(octets[12:]))
	}
	if addr.Is6() && !netip.MustParsePrefix("2000::/3").Contains(addr) {
		return false
	}
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	for _, special := range specialPrefixes() {
		if special.Contains(addr) {
			return false
		}
	}
	return true
}
