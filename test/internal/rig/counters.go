package rig

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sentryagent/agentidp/test/internal/proc"
)

// Counters are what everything has done since it started.
type Counters struct {
	At           time.Time
	CPU          map[string]time.Duration // by process; Postgres with all its children, "bench" is the load generator
	Stolen       time.Duration            // of all cores, by the hypervisor
	Statements   map[string]int64         // Postgres statements by role
	Redis        map[string]int64         // commands by name, those inside of scripts too
	RedisReads   int64                    // how often Redis read from a connection: the round trips of all clients
	AuditSeq     uint64                   // sequence of the last message in the stream AUDIT
	LifecycleSeq uint64
	Waiting      uint64 // messages in AUDIT that the audit service has not stored yet
	Stored       int64  // events in the audit log
}

// CPU reads the processor time of every process.
func (r *Rig) CPU() (map[string]time.Duration, error) {
	pids, err := r.pids()
	if err != nil {
		return nil, err
	}
	cpu := make(map[string]time.Duration, len(pids))
	for name, pid := range pids {
		read := proc.CPU
		if name == "postgres" {
			read = proc.TreeCPU
		}
		if cpu[name], err = read(proc.Root, pid); err != nil {
			return nil, err
		}
	}
	return cpu, nil
}

// Memory of every process but Postgres, whose processes share most of theirs, and this one.
func (r *Rig) Memory() (map[string]proc.Memory, error) {
	pids, err := r.pids()
	if err != nil {
		return nil, err
	}
	delete(pids, "postgres")
	delete(pids, "bench")
	memory := make(map[string]proc.Memory, len(pids))
	for name, pid := range pids {
		if memory[name], err = proc.MemoryOf(proc.Root, pid); err != nil {
			return nil, err
		}
	}
	return memory, nil
}

// Count reads all counters.
func (r *Rig) Count(ctx context.Context) (Counters, error) {
	c := Counters{At: time.Now()}
	var err error
	if c.CPU, err = r.CPU(); err != nil {
		return c, err
	}
	if c.Stolen, err = proc.Stolen(proc.Root); err != nil {
		return c, err
	}
	if c.Statements, err = r.statements(ctx); err != nil {
		return c, err
	}
	if c.Redis, c.RedisReads, err = r.redisCounters(ctx); err != nil {
		return c, err
	}
	if c.AuditSeq, c.Waiting, err = r.streamState(ctx, "AUDIT"); err != nil {
		return c, err
	}
	if c.LifecycleSeq, _, err = r.streamState(ctx, "LIFECYCLE"); err != nil {
		return c, err
	}
	if err := r.db.QueryRow(ctx, "SELECT size FROM audit.tree").Scan(&c.Stored); err != nil {
		return c, fmt.Errorf("size of the audit log: %w", err)
	}
	return c, nil
}

func (r *Rig) statements(ctx context.Context) (map[string]int64, error) {
	rows, err := r.db.Query(ctx, `SELECT rolname, sum(calls)::bigint FROM pg_stat_statements
		JOIN pg_roles ON pg_roles.oid = userid GROUP BY rolname`)
	if err != nil {
		return nil, fmt.Errorf("count statements: %w", err)
	}
	defer rows.Close()
	counted := map[string]int64{}
	for rows.Next() {
		var role string
		var calls int64
		if err := rows.Scan(&role, &calls); err != nil {
			return nil, fmt.Errorf("count statements: %w", err)
		}
		counted[role] = calls
	}
	return counted, rows.Err()
}

// Statement is one kind of statement that a role ran.
type Statement struct {
	Role  string `json:"role"`
	Calls int64  `json:"calls"`
	Query string `json:"query"`
}

// ForgetStatements makes Statements count from now on; the differences of Counters must not span it.
func (r *Rig) ForgetStatements(ctx context.Context) error {
	_, err := r.db.Exec(ctx, "SELECT pg_stat_statements_reset()")
	return err
}

// Statements are those of a role since ForgetStatements, the most frequent first.
func (r *Rig) Statements(ctx context.Context, role string) ([]Statement, error) {
	rows, err := r.db.Query(ctx, `SELECT rolname, calls, left(regexp_replace(query, '\s+', ' ', 'g'), 120) FROM pg_stat_statements
		JOIN pg_roles ON pg_roles.oid = userid WHERE rolname = $1 ORDER BY calls DESC LIMIT 12`, role)
	if err != nil {
		return nil, fmt.Errorf("list statements: %w", err)
	}
	defer rows.Close()
	var all []Statement
	for rows.Next() {
		var s Statement
		if err := rows.Scan(&s.Role, &s.Calls, &s.Query); err != nil {
			return nil, fmt.Errorf("list statements: %w", err)
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

func (r *Rig) redisCounters(ctx context.Context) (commands map[string]int64, reads int64, err error) {
	text, err := r.cache.InfoMap(ctx, "commandstats", "stats").Result()
	if err != nil {
		return nil, 0, fmt.Errorf("ask redis: %w", err)
	}
	commands, err = parseCommandStats(text["Commandstats"])
	if err != nil {
		return nil, 0, err
	}
	reads, err = strconv.ParseInt(text["Stats"]["total_reads_processed"], 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("redis does not say how often it read: %w", err)
	}
	return commands, reads, nil
}

// parseCommandStats reads lines like "cmdstat_get:calls=21,usec=175,...".
func parseCommandStats(lines map[string]string) (map[string]int64, error) {
	commands := make(map[string]int64, len(lines))
	for name, values := range lines {
		first, _, _ := strings.Cut(values, ",")
		calls, err := strconv.ParseInt(strings.TrimPrefix(first, "calls="), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("statistics of redis, %s: %w", name, err)
		}
		commands[strings.TrimPrefix(name, "cmdstat_")] = calls
	}
	return commands, nil
}

func (r *Rig) streamState(ctx context.Context, name string) (last, messages uint64, err error) {
	stream, err := r.stream.Stream(ctx, name)
	if err != nil {
		return 0, 0, fmt.Errorf("stream %s: %w", name, err)
	}
	state := stream.CachedInfo().State
	return state.LastSeq, state.Msgs, nil
}

// Waiting is how many messages are on their way to the audit service, of one event or several.
func (r *Rig) Waiting(ctx context.Context) (uint64, error) {
	_, messages, err := r.streamState(ctx, "AUDIT")
	return messages, err
}

// Settle waits until the audit service has stored every event there is, and answers how long that took.
func (r *Rig) Settle(ctx context.Context, most time.Duration) (time.Duration, error) {
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting, err := r.Waiting(ctx)
		if err != nil {
			return 0, err
		}
		var boxed int64
		if waiting == 0 {
			if err := r.db.QueryRow(ctx, `SELECT (SELECT count(*) FROM token.outbox) + (SELECT count(*) FROM registry.outbox)
				+ (SELECT count(*) FROM credentials.outbox)`).Scan(&boxed); err != nil {
				return 0, fmt.Errorf("look into the outboxes: %w", err)
			}
			if boxed == 0 {
				return time.Since(begin), nil
			}
		}
		if time.Since(begin) > most {
			return 0, fmt.Errorf("after %s %d events still wait in the stream and %d in the outboxes", most, waiting, boxed)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// Events is how many events of an action the audit service has stored, and how many messages it could not store.
func (r *Rig) Events(ctx context.Context, action string) (stored, dead int64, err error) {
	err = r.db.QueryRow(ctx, `SELECT (SELECT count(*) FROM audit.events WHERE action = $1),
		(SELECT count(*) FROM audit.dead_letters)`, action).Scan(&stored, &dead)
	if err != nil {
		return 0, 0, fmt.Errorf("count the events: %w", err)
	}
	return stored, dead, nil
}
