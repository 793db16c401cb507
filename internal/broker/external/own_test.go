package external_test

import (
	"fmt"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// Ensure that our own broker keeps every rule, in MQTT 3.1.1 and 5.
func TestMatrixOwnBroker(t *testing.T) {
	s := keyholdertest.Start(t)
	run(t, &target{name: "own", addr: s.MQTT[len("mqtts://"):], mqtt5: true, fabric: populate(t, s),
		left: func(_ string, r keyholder.Receipt) string {
			if r.Ended.Messages != 1 {
				return fmt.Sprintf("%d messages were removed", r.Ended.Messages)
			}
			return "nothing is left"
		}})
}
