package pgdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/sentryagent/agentidp/pkg/apperr"
)

// Constraint names the constraint (or unique index) that a statement violated, "" for any other
// error. Stores turn it into their typed errors; a check before the statement could not be exact.
func Constraint(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && len(pg.Code) == 5 && pg.Code[:2] == "23" {
		return pg.ConstraintName
	}
	return ""
}

// Fault says what a failed query means to a caller: an apperr that is there already and
// pgx.ErrNoRows come back untouched; lost or refused connections, timeouts, a server that shuts
// down or has no connection left become SERVICE_UNAVAILABLE; everything else is wrapped and will
// be an internal error at the edge.
func Fault(err error) error {
	if err == nil {
		return nil
	}
	var known *apperr.Error
	if errors.As(err, &known) || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if unavailable(err) {
		return apperr.Unavailable(fmt.Errorf("postgres: %w", err))
	}
	return fmt.Errorf("postgres: %w", err)
}

func unavailable(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return true // whatever the server said: it took no statement
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return unavailableState(pg.Code)
	}
	var network net.Error
	if errors.As(err, &network) || pgconn.Timeout(err) {
		return true
	}
	for _, lost := range []error{
		context.DeadlineExceeded, context.Canceled, puddle.ErrClosedPool,
		pgconn.ErrConnClosed, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
	} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}

// readOnlyState is the SQLSTATE of a write that the server does not take because it is read-only.
const readOnlyState = "25006"

// unavailableState tells the SQLSTATEs of a server that cannot serve now from those of a wrong
// statement (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func unavailableState(code string) bool {
	if len(code) != 5 {
		return false
	}
	switch code[:2] {
	case "08", // connection exception
		"53": // insufficient resources: too many connections, disk full, out of memory
		return true
	}
	switch code {
	case "57P01", "57P02", "57P03", // shut down, crashed, still starting
		"57014", "55P03", // statement cancelled, lock not available: timeouts
		readOnlyState,    // a failover is under way
		"25P03",          // the transaction lay idle for too long: this program was frozen
		"40001", "40P01": // serialization failure, deadlock: the next try may pass
		return true
	}
	return false
}
