package mailbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// stored is a message as it was read, with the checksum it was written with.
type stored struct {
	Message
	sum int64
}

// checksum is the CRC-32C of a message and of its place in its queue, so that
// neither a changed nor a misplaced one is taken for good. Properties count if
// there are any: the first messages that were stored had none.
func checksum(sub keyholder.SubscriptionID, msg Message) int64 {
	castagnoli := crc32.MakeTable(crc32.Castagnoli) // made once, by the library
	head := make([]byte, 0, 128)
	head = binary.BigEndian.AppendUint64(head, uint64(msg.Seq))
	head = binary.BigEndian.AppendUint64(head, uint64(msg.At.UnixMicro()))
	head = binary.BigEndian.AppendUint32(head, uint32(len(msg.Level)))
	head = append(append(head, sub...), msg.Level...)
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, msg.Payload)
	if n := len(msg.Properties); n > 0 {
		sum = crc32.Update(sum, castagnoli, binary.BigEndian.AppendUint32(nil, uint32(n)))
		sum = crc32.Update(sum, castagnoli, msg.Properties)
	}
	return int64(sum)
}

// intact returns the messages that are as they were written, and takes those
// that are not out of the queue: a damaged message must neither be delivered
// nor stop what comes after it.
func (m *Mailbox) intact(ctx context.Context, sub keyholder.SubscriptionID, read []stored) ([]Message, error) {
	good := make([]Message, 0, len(read))
	for _, msg := range read {
		if checksum(sub, msg.Message) == msg.sum {
			good = append(good, msg.Message)
			continue
		}
		if err := m.discard(ctx, sub, msg.Seq); err != nil {
			return nil, err
		}
	}
	return good, nil
}

// discard removes a damaged message, with an alarm and a row on the audit
// trail, and counts the queue anew.
func (m *Mailbox) discard(ctx context.Context, sub keyholder.SubscriptionID, seq int64) error {
	err := m.store.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("DELETE FROM messages WHERE subscription = ? AND seq = ?", sub, seq); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE mailboxes SET
			messages = (SELECT count(*) FROM messages WHERE subscription = mailboxes.subscription),
			bytes = (SELECT coalesce(sum(octet_length(level) + octet_length(payload) + coalesce(octet_length(properties), 0)), 0) FROM messages WHERE subscription = mailboxes.subscription)
			WHERE subscription = ?`, sub); err != nil {
			return err
		}
		return m.ledger.Append(tx, keyholder.EventMessageDamaged, ledger.System, string(sub), map[string]string{"message": strconv.FormatInt(seq, 10)})
	})
	if err != nil {
		return fmt.Errorf("take a damaged message out of a mailbox: %w", err)
	}
	m.cfg.Log.Error("a message in a mailbox was damaged on disk and is lost; the rest of the queue goes on", "subscription", sub, "message", seq,
		"hint", "look at the disk and its logs, and ask the provider to send the item again")
	return nil
}
