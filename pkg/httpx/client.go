package httpx

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// resolveClient puts the client's address into r.RemoteAddr, where all that
// follows finds it by gin's RemoteIP (ClientIP would parse it and write it again).
//
// X-Forwarded-For is read from its right end, over all header lines, only as
// far as trusted proxies wrote it: the first address that is no proxy of ours
// is the client. What stands left of it, or of a malformed entry, is the
// client's own claim and counts for nothing. It reports whether there was such a
// header that nobody trusted sent.
func resolveClient(r *http.Request, trusted []netip.Prefix) (disbelieved bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	client := plain(peer.Addr())
	if within(trusted, client) {
		client = forwarded(r.Header, client, trusted)
	} else {
		disbelieved = len(r.Header["X-Forwarded-For"]) > 0
	}
	if client != peer.Addr() {
		r.RemoteAddr = net.JoinHostPort(client.String(), "0")
	}
	return disbelieved
}

// forwarded walks from proxy to proxy towards the client.
func forwarded(h http.Header, client netip.Addr, trusted []netip.Prefix) netip.Addr {
	hops := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && within(trusted, client); i-- {
		hop := strings.TrimSpace(hops[i])
		if hop == "" {
			continue
		}
		addr, ok := parseHop(hop)
		if !ok {
			break
		}
		client = addr
	}
	return client
}

// parseHop accepts an address, also in brackets and with a port, as some proxies write it.
func parseHop(hop string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]")); err == nil {
		return plain(addr), true
	}
	if addrPort, err := netip.ParseAddrPort(hop); err == nil {
		return plain(addrPort.Addr()), true
	}
	return netip.Addr{}, false
}

// plain is the form that is stored and compared: IPv4 as such, and no zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func within(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
