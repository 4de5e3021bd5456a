package dev

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
)

const (
	// maxLogBytes is the size at which a log is put aside as <name>.1, replacing the one before.
	maxLogBytes = 32 << 20
	// tailBytes is how much of the end of a log is read to find its last lines.
	tailBytes = 8 << 10
)

// logFile is the log of one service or server, bounded to two files of maxLogBytes. It is safe for
// concurrent use.
type logFile struct {
	mu    sync.Mutex
	path  string
	limit int64
	file  *os.File
	size  int64
	tee   io.Writer // nil unless the console shows the log too
}

func openLog(path string, limit int64, tee io.Writer) (*logFile, error) {
	l := &logFile{path: path, limit: limit, tee: tee}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open a log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("open a log: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends whole lines, as loggers and the servers' output come.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tee != nil {
		_, _ = l.tee.Write(line)
	}
	if l.size+int64(len(line)) > l.limit && l.size > 0 {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return n, err
}

func (l *logFile) rotate() error {
	if err := l.file.Close(); err != nil {
		return err
	}
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return err
	}
	return l.open()
}

// tail gives the last lines that were written, at most count.
func (l *logFile) tail(count int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.Open(l.path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(max(0, l.size-tailBytes), io.SeekStart); err != nil {
		return nil
	}
	content, err := io.ReadAll(file)
	if err != nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	if len(lines) > count {
		lines = lines[len(lines)-count:]
	}
	texts := make([]string, 0, len(lines))
	for _, line := range lines {
		if len(line) > 0 {
			texts = append(texts, string(line))
		}
	}
	return texts
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
