package webhook

import (
	"errors"
	"net/netip"
	"syscall"

	"github.com/fds-keyholder/keyholder"
)

// errAddress is in the chain of a refusal to dial.
var errAddress = errors.New("address refused")

// control returns the check that a dialer makes of every address it is about
// to connect to, after names are resolved: a name that resolves to something
// else the next time gains nothing.
func control(allowPrivate bool) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		target, err := netip.ParseAddrPort(address)
		if err != nil {
			return errAddress
		}
		return checkAddress(target.Addr(), allowPrivate)
	}
}

// checkAddress refuses what is not a public unicast address, so that no app
// can use its webhook to reach into the network this server stands in. With
// allowPrivate the addresses of one's own networks are let through; the
// addresses at which clouds tell their machines secrets, and what is no
// address of one machine, never are.
func checkAddress(a netip.Addr, allowPrivate bool) error {
	a = a.Unmap().WithZone("")
	refuse := func(what string) error {
		e := keyholder.Errorf(keyholder.Denied, "the target is at %s", what)
		e.Err = errAddress
		return e
	}
	for _, p := range metadata() {
		if p == a {
			return refuse("the metadata service of a cloud")
		}
	}
	switch {
	case a.IsUnspecified(), a.IsMulticast(), a.Is4() && a.As4()[0] == 0, a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return refuse("an address that is not one machine's")
	case allowPrivate:
		return nil
	case a.IsLoopback():
		return refuse("a loopback address")
	case a.IsPrivate():
		return refuse("a private address")
	case a.IsLinkLocalUnicast():
		return refuse("a link-local address")
	}
	for _, p := range special() {
		if p.Contains(a) {
			return refuse("an address that is not public")
		}
	}
	if a.Is6() && !netip.MustParsePrefix("2000::/3").Contains(a) {
		return refuse("an address that is not public")
	}
	return nil
}

// metadata lists the addresses of cloud metadata services.
func metadata() []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr("169.254.169.254"), // most clouds
		netip.MustParseAddr("169.254.170.2"),   // containers of one
		netip.MustParseAddr("169.254.0.23"),
		netip.MustParseAddr("100.100.100.200"),
		netip.MustParseAddr("192.0.0.192"),
		netip.MustParseAddr("fd00:ec2::254"),
		netip.MustParseAddr("fd20:ce::254"),
	}
}

// special lists further ranges of the IANA special-purpose registries (RFC
// 6890) that are not globally reachable, and those that carry an IPv4 address
// to somewhere else.
func special() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("100.64.0.0/10"), // shared by carriers
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.0.2.0/24"), // documentation
		netip.MustParsePrefix("192.88.99.0/24"),
		netip.MustParsePrefix("198.18.0.0/15"), // benchmarks
		netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"),
		netip.MustParsePrefix("240.0.0.0/4"), // reserved
		netip.MustParsePrefix("2001::/23"),   // protocol assignments, Teredo among them
		netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("2002::/16"), // 6to4
		netip.MustParsePrefix("3fff::/20"), // documentation
	}
}
