package webhook_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder/internal/webhook"
)

// Ensure that only public unicast addresses pass by default, that own networks
// pass where allowed, and cloud metadata never.
func TestCheckAddress(t *testing.T) {
	for _, c := range []struct {
		address         string
		public, private bool // whether it passes by default, and with AllowPrivate
	}{
		{"93.184.215.14", true, true},
		{"2606:2800:21f:cb07:6820:80da:af6b:8b2c", true, true},
		{"::ffff:93.184.215.14", true, true},
		{"127.0.0.1", false, true},
		{"127.8.8.8", false, true},
		{"::1", false, true},
		{"::ffff:127.0.0.1", false, true},
		{"10.0.0.1", false, true},
		{"172.16.0.1", false, true},
		{"172.32.0.1", true, true},
		{"192.168.1.1", false, true},
		{"::ffff:192.168.1.1", false, true},
		{"169.254.1.1", false, true},
		{"fe80::1%eth0", false, true},
		{"fc00::1", false, true},
		{"fd12:3456::1", false, true},
		{"fec0::1", false, true},
		{"100.64.0.1", false, true},
		{"198.18.0.1", false, true},
		{"192.0.2.1", false, true},
		{"198.51.100.1", false, true},
		{"203.0.113.1", false, true},
		{"192.0.0.1", false, true},
		{"240.0.0.1", false, true},
		{"2001:db8::1", false, true},
		{"2001::1", false, true},
		{"2002:7f00:1::1", false, true},
		{"64:ff9b::7f00:1", false, true},
		{"::7f00:1", false, true},
		{"3fff::1", false, true},
		{"0.0.0.0", false, false},
		{"0.1.2.3", false, false},
		{"::", false, false},
		{"::ffff:0.0.0.0", false, false},
		{"224.0.0.1", false, false},
		{"ff02::1", false, false},
		{"255.255.255.255", false, false},
		{"169.254.169.254", false, false},
		{"::ffff:169.254.169.254", false, false},
		{"fd00:ec2::254", false, false},
		{"100.100.100.200", false, false},
	} {
		a := netip.MustParseAddr(c.address)
		if got := webhook.CheckAddress(a, false) == nil; got != c.public {
			t.Errorf("%s passes by default: %v, want %v", a, got, c.public)
		}
		if got := webhook.CheckAddress(a, true) == nil; got != c.private {
			t.Errorf("%s passes where private is allowed: %v, want %v", a, got, c.private)
		}
	}
}

// Ensure that the default backoff grows from about a second to about five
// minutes and no further.
func TestBackoff(t *testing.T) {
	for failed, most := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second,
		9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute} {
		for range 200 {
			if d := webhook.Backoff(failed); d < most/2 || d > most {
				t.Fatalf("after %d failures %v, want %v to %v", failed, d, most/2, most)
			}
		}
	}
}

// Ensure that no address makes the check panic, and that what passes by
// default is a global unicast address.
func FuzzCheckAddress(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "::1", "fe80::1%x", "8.8.8.8", "::ffff:10.0.0.1", "2606::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return
		}
		if webhook.CheckAddress(a, false) == nil {
			if a = a.Unmap(); !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() {
				t.Fatalf("%s passes", a)
			}
			if webhook.CheckAddress(a, true) != nil {
				t.Fatalf("%s passes only by default", a)
			}
		}
	})
}
