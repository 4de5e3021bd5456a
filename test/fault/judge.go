package main

import (
	"fmt"
	"sync"
)

// judge counts what clients ask for where nothing may fail, and keeps what did. It is safe for concurrent use.
type judge struct {
	mu    sync.Mutex
	asked int
	found []finding
}

// see an attempt. A status that is wrong for what was asked is for the client to notice.
func (j *judge) see(t attempt) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked++
	if what := t.failure(); what != "" {
		j.found = append(j.found, finding{what: what, requests: []string{t.id}})
	}
}

func (j *judge) find(found ...finding) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.found = append(j.found, found...)
}

// verdict is how many attempts there were, and what was found.
func (j *judge) verdict() (asked int, found []finding) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.asked, j.found
}

// failure says how an attempt failed, "" if it did not.
func (t attempt) failure() string {
	switch {
	case t.again():
		return fmt.Sprintf("failed: %s (request %s)", t, t.id)
	case t.resent:
		return fmt.Sprintf("was cut off and sent again: %s (request %s)", t, t.id)
	default:
		return ""
	}
}
