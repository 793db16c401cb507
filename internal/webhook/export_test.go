package webhook

import (
	"net/netip"
	"time"
)

// CheckAddress opens the address policy to its table test.
func CheckAddress(a netip.Addr, allowPrivate bool) error { return checkAddress(a, allowPrivate) }

// Backoff opens the default backoff to its test.
func Backoff(failed int) time.Duration { return backoff(failed) }
