package external

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/keyfile"
)

// mosquitto carries rights and ends to Mosquitto, which asks nobody: the
// rights stand in files that it reads again at SIGHUP, and a connection ends
// when somebody else connects under its client ID.
type mosquitto struct {
	door    *Door
	sign    func() ([]byte, error) // the revocation list, in DER
	folder  string
	pidFile string
	address string // host:port of the listener for Keyholder
	tls     *tls.Config
	account account
	passwd  []byte // the account in the form of mosquitto_passwd

	mu      sync.Mutex // guards the rest
	rights  int64      // Door.changes when the files were written
	looked  time.Time  // when it was looked whether they are up to date
	written map[string][]byte
	list    []byte // the revocation list in PEM,
	signed  time.Time
	revoked int // and how many were revoked when it was signed
}

// Names of the files in the folder.
const (
	aclName    = "keyholder.acl"
	crlName    = "keyholder.crl"
	passwdName = "keyholder.passwd"
	noneName   = "keyholder.none"
)

func newMosquitto(d *Door, s Setting, cfg Config, a account, c *tls.Config) (*mosquitto, error) {
	u, err := url.Parse(s.API[0])
	if err != nil {
		return nil, fmt.Errorf("read the address: %w", err)
	}
	m := &mosquitto{door: d, sign: cfg.Revoked, folder: s.path(cfg.Dir, s.Folder), pidFile: s.path(cfg.Dir, s.PIDFile), address: u.Host,
		tls: c, account: a, written: map[string][]byte{}}
	m.passwd, err = passwdLine(a)
	return m, err
}

// passwdLine is PBKDF2 with SHA-512 as in mosquitto_passwd(1). The secret is
// random, so a slow hash would add nothing.
func passwdLine(a account) ([]byte, error) {
	var salt [12]byte
	if _, err := io.ReadFull(rand.Reader, salt[:]); err != nil {
		return nil, fmt.Errorf("draw a salt: %w", err)
	}
	const iterations = 101
	hash, err := pbkdf2.Key(sha512.New, a.secret, salt[:], iterations, sha512.Size)
	if err != nil {
		return nil, fmt.Errorf("hash the secret: %w", err)
	}
	return fmt.Appendf(nil, "%s:$7$%d$%s$%s\n", a.user, iterations, base64.StdEncoding.EncodeToString(salt[:]), base64.StdEncoding.EncodeToString(hash)), nil
}

// refreshAfter is how long files are left alone when nothing was recorded:
// rights end by themselves, and the revocation list has an end.
const refreshAfter = 15 * time.Second

// refresh writes the files if rights changed, and has Mosquitto read them.
func (m *mosquitto) refresh(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	changes, now := m.door.changes.Load(), m.door.now()
	if age := now.Sub(m.looked); changes == m.rights && age >= 0 && age < refreshAfter {
		return nil
	}
	changed := false
	for name, make := range map[string]func() ([]byte, error){aclName: m.acl, crlName: m.crl,
		passwdName: func() ([]byte, error) { return m.passwd, nil }, noneName: func() ([]byte, error) { return []byte("# Keyholder's own connections have no right.\n"), nil }} {
		data, err := make()
		if err != nil {
			return err
		}
		if bytes.Equal(m.written[name], data) {
			continue
		}
		if err := replaceShared(filepath.Join(m.folder, name), data); err != nil {
			return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the broker's files cannot be written", Err: err}
		}
		m.written[name], changed = data, true
	}
	if changed {
		if err := m.reload(); err != nil {
			clear(m.written) // so that it is tried again
			return err
		}
	}
	m.rights, m.looked = changes, now
	return nil
}

// replaceShared replaces a file that the broker's group may read.
func replaceShared(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o640); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// reload has Mosquitto read its files again. One that does not run reads them
// when it starts.
func (m *mosquitto) reload() error {
	text, err := keyfile.Read(m.pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	pid := 0
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err == nil && pid > 1 && isMosquitto(pid) {
		err = syscall.Kill(pid, syscall.SIGHUP)
	}
	if err != nil {
		return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the broker cannot be told to read its files again", Err: err}
	}
	return nil
}

// isMosquitto says whether a process is the broker, and not another one that
// got the number of a broker that died.
func isMosquitto(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "mosquitto"
}

// listLife is how long a revocation list is left, if nobody was revoked. It is
// a fraction of its validity.
const listLife = time.Hour

// crl is the revocation list, in PEM.
func (m *mosquitto) crl() ([]byte, error) {
	revoked, now := len(m.door.ledger.ListRevoked()), m.door.now()
	if age := now.Sub(m.signed); m.list != nil && revoked == m.revoked && age >= 0 && age < listLife {
		return m.list, nil
	}
	der, err := m.sign()
	if err != nil {
		return nil, fmt.Errorf("make the revocation list: %w", err)
	}
	m.list, m.signed, m.revoked = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), now, revoked
	return m.list, nil
}

// acl writes the rights of every client.
func (m *mosquitto) acl() ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintln(&out, "# Written by Keyholder. Whoever is not here has no right.")
	d, now := m.door, m.door.now()
	subs := d.ledger.ListSubscriptions()
	for _, sub := range subs {
		for _, f := range d.rights(d.peer(string(sub.ID)).Certificate, nil, now).reads {
			fmt.Fprintf(&out, "\nuser %s\ntopic read %s\n", sub.ID, f)
		}
	}
	for _, p := range d.ledger.ListProviders() {
		var topics []string
		for _, f := range d.rights(d.peer(string(p.ID)).Certificate, subs, now).writes {
			topics = append(topics, f.String())
		}
		if len(topics) > 0 {
			slices.Sort(topics)
			fmt.Fprintf(&out, "\nuser %s\ntopic write %s\n", p.ID, strings.Join(topics, "\ntopic write "))
		}
	}
	return out.Bytes(), nil
}

// reloadTime is how long Mosquitto may take from SIGHUP until it has read its
// files.
const reloadTime = 200 * time.Millisecond

// end takes the rights away and then the connections and sessions. Mosquitto
// does not say whether there were any, so the number is always 0.
func (m *mosquitto) end(ctx context.Context, clients []string, gone map[string]bool) (int, error) {
	if err := m.refresh(ctx); err != nil {
		return 0, err
	}
	if err := pause(ctx, reloadTime); err != nil {
		return 0, fmt.Errorf("wait for the broker to read its files: %w", err)
	}
	return each(clients, func(id string) (int, error) {
		present, err := m.takeOver(ctx, id, gone[id])
		if err == nil && !gone[id] && !present {
			_, err = m.takeOver(ctx, id, true) // do not leave a session that was not there
		}
		if err != nil {
			return 0, &keyholder.Error{Code: keyholder.Unavailable, Detail: "the broker did not give up the client ID", Err: err}
		}
		return 0, nil
	})
}

// takeOver connects under a client ID, which ends the connection that has it
// (MQTT 3.1.1 section 3.1.4), and with clean the session too; and goes away.
func (m *mosquitto) takeOver(ctx context.Context, id string, clean bool) (present bool, err error) {
	conn, err := (&tls.Dialer{Config: m.tls}).DialContext(ctx, "tcp", m.address)
	if err != nil {
		return false, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(until)
	}
	if _, err := conn.Write(connectPacket(id, m.account, clean)); err != nil {
		return false, fmt.Errorf("send CONNECT: %w", err)
	}
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		return false, fmt.Errorf("read CONNACK: %w", err)
	}
	if ack[0] != 0x20 || ack[3] != 0 {
		return false, fmt.Errorf("CONNACK has code %d", ack[3])
	}
	_, err = conn.Write([]byte{0xe0, 0}) // DISCONNECT
	return ack[2]&1 == 1, err
}

// connectPacket is CONNECT of MQTT 3.1.1 (section 3.1).
func connectPacket(id string, a account, clean bool) []byte {
	flags := byte(0xc0) // user name and password
	if clean {
		flags |= 0x02
	}
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, flags}, 0, 10) // keep-alive of 10 seconds
	for _, s := range []string{id, a.user, a.secret} {
		body = append(append(body, byte(len(s)>>8), byte(len(s))), s...)
	}
	packet := []byte{0x10}
	for n := len(body); ; {
		b := byte(n & 0x7f)
		if n >>= 7; n == 0 {
			return append(append(packet, b), body...)
		}
		packet = append(packet, b|0x80)
	}
}

// clients lists nobody: Mosquitto does not say who is connected. Whoever has no
// right any more is not in the files.
func (m *mosquitto) clients(context.Context) (map[string]bool, error) { return nil, nil }
