package guard

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// sweepPause is the shortest time between two searches for endings that no
// longer matter.
const sweepPause = time.Minute

// endings remembers what has ended for as long as a token that rests on it
// could be valid. A retired key is never forgotten: whoever has stolen it can
// make tokens for ever, and there are few.
type endings struct {
	mu    sync.RWMutex         // guards the rest
	until map[string]time.Time // by keyholder.Ending.Key; zero: for ever
	swept time.Time
}

// add remembers endings until the time until, and sometimes forgets what is
// past.
func (e *endings) add(list []keyholder.Ending, until, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.until == nil {
		e.until = make(map[string]time.Time)
	}
	if now.Sub(e.swept) >= sweepPause {
		maps.DeleteFunc(e.until, func(_ string, t time.Time) bool { return !t.IsZero() && t.Before(now) })
		e.swept = now
	}
	for _, ending := range list {
		switch key := ending.Key(); {
		case key == "": // what a token does not rest on is empty there, too
		case ending.Kind == keyholder.EndedKey:
			e.until[key] = time.Time{}
		default:
			e.until[key] = until
		}
	}
}

// has says whether something the token rests on has ended.
func (e *endings) has(t keyholder.Token) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if len(e.until) == 0 {
		return false
	}
	for _, key := range t.RestsOn() {
		if _, ended := e.until[key]; ended {
			return true
		}
	}
	return false
}

func (e *endings) len() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.until)
}

// End ends the tokens of everything a cut ended, certificates excepted, which
// the cut names by serial: it forgets those in the cache, and refuses them
// from now on even where nothing else would. It returns how many were in the
// cache.
func (g *Guard) End(c keyholder.Cut) int {
	ended := slices.Concat(
		endingsOf(keyholder.EndedSubscription, c.Ended.Subscriptions), endingsOf(keyholder.EndedGrant, c.Ended.Grants),
		endingsOf(keyholder.EndedClient, c.Ended.Apps), endingsOf(keyholder.EndedClient, c.Ended.Providers))
	if len(ended) == 0 {
		return 0
	}
	now := g.cfg.Now()
	g.endings.add(ended, now.Add(g.cfg.MaxLifetime+g.cfg.Leeway), now)
	return g.cache.drop(g.endings.has)
}

func endingsOf[T ~string](kind keyholder.EndingKind, ids []T) []keyholder.Ending {
	var out []keyholder.Ending
	for _, id := range ids {
		out = append(out, keyholder.Ending{Kind: kind, ID: string(id)})
	}
	return out
}
