package keyholder_test

import (
	"strings"
	"testing"

	"github.com/fds-keyholder/keyholder"
)

// Ensure that slips find their word and that strange words find none.
func TestNearest(t *testing.T) {
	known := []string{"hosts", "issuer", "allow_private", "subscription"}
	for s, want := range map[string]string{
		"host": "hosts", "hsots": "hosts", "Issuer": "issuer", "alow_private": "allow_private", "subscripton": "subscription",
		"zzzzzzzz": "", strings.Repeat("hosts", 20): "",
	} {
		if got := keyholder.Nearest(s, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", s, got, want)
		}
	}
}
