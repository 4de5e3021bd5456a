package quota

import "net/netip"

// placeOf is what counts as one address: an IPv6 network of 64 bits, which is the
// least that anybody is given, and who has one has all the addresses in it.
func placeOf(ipAddress string) string {
	address, err := netip.ParseAddr(ipAddress)
	if err != nil {
		return ipAddress
	}
	if address = address.Unmap(); address.Is4() {
		return address.String()
	}
	network, err := address.WithZone("").Prefix(64)
	if err != nil {
		return ipAddress
	}
	return network.String()
}
