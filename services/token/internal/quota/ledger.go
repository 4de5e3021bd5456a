package quota

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/ratelimit"
	"github.com/sentryagent/agentidp/services/token/internal/issue"
)

// account names a client's month.
type account struct {
	agentID uuid.UUID
	month   time.Time // the first of the month, UTC
}

// charge is what became of a request to this account.
func (a account) charge(window ratelimit.Window, exceeded bool) issue.Charge {
	return issue.Charge{Window: window, QuotaExceeded: exceeded, ClientID: a.agentID, Month: a.month}
}

// page is what this replica has to remember of an account.
type page struct {
	// seen is the highest count this replica saw in Redis and has not written yet; 0 if none.
	seen int64
	// told is the highest count of Redis that Postgres has, or is told with every charge.
	told int64
	// ahead tells that Postgres was charged while Redis was away, so that the counter
	// in Redis is too low.
	ahead bool
	// charging and spending count the charges to Postgres and to Redis under way.
	charging, spending int
	// generation is another one after everything that put Postgres ahead.
	generation uint64
}

func (p *page) blank() bool { return p.seen == 0 && !p.ahead && p.charging == 0 && p.spending == 0 }

// busy tells that Redis and Postgres may both have counted from the same number on,
// or will, so that neither can be raised to the other yet.
func (p *page) busy() bool { return p.charging > 0 || p.spending > 0 }

// ledger is this replica's memory between Redis and Postgres. It holds only
// accounts of which something is still to be done.
type ledger struct {
	mu    sync.Mutex
	pages map[account]*page
	// generation is the newest one of all pages, as a page may be forgotten and begun again.
	generation uint64
}

func newLedger() *ledger { return &ledger{pages: map[account]*page{}} }

func (l *ledger) page(acc account) *page {
	p, ok := l.pages[acc]
	if !ok {
		p = &page{}
		l.pages[acc] = p
	}
	return p
}

func (l *ledger) tidy(acc account, p *page) {
	if p.blank() {
		delete(l.pages, acc)
	}
}

func (l *ledger) putAhead(p *page) {
	l.generation++
	p.ahead, p.generation = true, l.generation
}

// enter begins a charge to Redis, unless the counter there is behind. Then it answers
// whether that can be raised yet.
func (l *ledger) enter(acc account) (entered, raisable bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.page(acc)
	if p.ahead {
		return false, !p.busy()
	}
	p.spending++
	return true, false
}

// leave ends a charge to Redis and remembers the count that it answered until that is
// written; 0 is none. It answers false if Postgres came ahead meanwhile from a count that
// does not have this one in it: a counter that is raised to another number loses what
// was counted there, so the token is to be counted in Postgres.
func (l *ledger) leave(acc account, used int64) (counts bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.page(acc)
	p.spending--
	if p.ahead {
		return used <= p.told
	}
	p.seen, p.told = max(p.seen, used), max(p.told, used)
	l.tidy(acc, p)
	return true
}

// charge begins a charge to Postgres, and answers what was seen in Redis.
func (l *ledger) charge(acc account) (seen int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.page(acc)
	p.charging++
	l.putAhead(p)
	return p.seen
}

// charged ends a charge to Postgres. A count that was read while it was under way may lack it.
func (l *ledger) charged(acc account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.page(acc)
	p.charging--
	l.putAhead(p)
}

// catching answers the generation of the count that Redis is about to be raised to.
func (l *ledger) catching(acc account) (generation uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.pages[acc]; ok {
		return p.generation
	}
	return 0
}

// raised notes that Redis has the count that Postgres had in that generation. It answers
// whether that is the count it has still.
func (l *ledger) raised(acc account, generation uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pages[acc]
	if !ok || !p.ahead {
		return true
	}
	if p.busy() || p.generation != generation {
		return false
	}
	p.ahead = false
	l.tidy(acc, p)
	return true
}

// fellBehind notes that Redis has a lower count than Postgres.
func (l *ledger) fellBehind(acc account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putAhead(l.page(acc))
}

// unwritten answers the counts to write.
func (l *ledger) unwritten() []Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	var counts []Count
	for acc, p := range l.pages {
		if p.seen > 0 {
			counts = append(counts, Count{AgentID: acc.agentID, Month: acc.month, Used: p.seen})
		}
	}
	return counts
}

// written forgets counts that are stored, unless higher ones were seen since.
func (l *ledger) written(counts []Count) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, count := range counts {
		acc := count.account()
		if p, ok := l.pages[acc]; ok && p.seen <= count.Used {
			p.seen = 0
			l.tidy(acc, p)
		}
	}
}

// behind answers the accounts whose counter in Redis is to be raised.
func (l *ledger) behind() []account {
	l.mu.Lock()
	defer l.mu.Unlock()
	var accounts []account
	for acc, p := range l.pages {
		if p.ahead && !p.busy() {
			accounts = append(accounts, acc)
		}
	}
	return accounts
}
