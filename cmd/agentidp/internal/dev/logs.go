package dev

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
)

// shownLines is how much of a failed service's log the console shows.
const shownLines = 15

// logs are the log files of one run. It is safe for concurrent use.
type logs struct {
	dir string
	tee io.Writer

	mu    sync.Mutex
	files map[string]*logFile
}

func newLogs(dir string, tee io.Writer) *logs {
	return &logs{dir: dir, tee: tee, files: make(map[string]*logFile)}
}

// open gives the log of a service or server, always the same one for a name.
func (l *logs) open(name string) (*logFile, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if file, opened := l.files[name]; opened {
		return file, nil
	}
	file, err := openLog(l.path(name), maxLogBytes, l.tee)
	if err != nil {
		return nil, err
	}
	l.files[name] = file
	return file, nil
}

func (l *logs) path(name string) string { return filepath.Join(l.dir, name+".log") }

// explain adds to a failure the last lines of the log and where the rest is.
func (l *logs) explain(name string, failure error) error {
	l.mu.Lock()
	file := l.files[name]
	l.mu.Unlock()
	if file == nil {
		return failure
	}
	last := file.tail(shownLines)
	if len(last) == 0 {
		return failure
	}
	return fmt.Errorf("%w\n\nthe last lines of %s:\n  %s", failure, l.path(name), strings.Join(last, "\n  "))
}

func (l *logs) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failures := make([]error, 0, len(l.files))
	for _, file := range l.files {
		failures = append(failures, file.close())
	}
	return errors.Join(failures...)
}
