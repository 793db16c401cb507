package conformance

import (
	"bufio"
	"bytes"
)

// Clean, ReadPackets and LookIntoToken open what handles text and packets from
// outside to tests.
func Clean(s string) string { return clean(s) }

// ReadPackets reads packets as from a broker and returns how many there were.
func ReadPackets(data []byte) int {
	r := bufio.NewReader(bytes.NewReader(data))
	for n := 0; ; n++ {
		if _, err := readPacket(r); err != nil {
			return n
		}
	}
}

// LookIntoToken parses a token, tampers with it and returns the outcome.
func LookIntoToken(raw string) (string, error) {
	t := parseToken(raw)
	t.bound()
	return t.tampered(func(c map[string]any) { c["subscription_id"] = "x" })
}
