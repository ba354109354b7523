// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Modules that come and go while programs have probes in them, or want to.
 */
#include <linux/kobject.h>
#include <linux/module.h>

#include "bridge.h"

/* Protects the list, and that each program in it stays. */
static DEFINE_MUTEX(dpb_programs_lock);
static LIST_HEAD(dpb_programs);

/**
 * dpb_module_may_come() - whether a symbol's module is not there, and can be
 * @symbol: "module:function", or a function, which waits for none
 *
 * One whose init has not begun may seem not to be there: its event comes, or
 * it has come while the caller waited for dpb_program.lock, and the function
 * was found.
 *
 * Return: as the name says; what is part of the kernel itself is there, what
 * is about to go is not.
 */
bool dpb_module_may_come(const char *symbol)
{
	const char *colon = strchr(symbol, ':');
	char name[MODULE_NAME_LEN];
	const struct module *module;
	struct kobject *found;
	bool there;

	if (!colon || colon == symbol || !colon[1] ||
	    colon - symbol >= sizeof(name))
		return false;
	strscpy(name, symbol, colon - symbol + 1);
	/* /sys/module: find_module() is not for modules. */
	found = kset_find_obj(THIS_MODULE->mkobj.kobj.kset, name);
	if (!found)
		return true;
	/* It stays while we have this; what is part of the kernel has none. */
	module = container_of(found, struct module_kobject, kobj)->mod;
	there = !module || READ_ONCE(module->state) != MODULE_STATE_GOING;
	kobject_put(found);
	return !there;
}

/**
 * dpb_publish() - let a program know of modules
 * @program: complete, nothing of it placed
 */
void dpb_publish(struct dpb_program *program)
{
	mutex_lock(&dpb_programs_lock);
	list_add_tail(&program->list, &dpb_programs);
	mutex_unlock(&dpb_programs_lock);
}

/**
 * dpb_unpublish() - undo dpb_publish(), if it was done
 * @program: its list is initialised
 *
 * Returns when no event of a module uses it.
 */
void dpb_unpublish(struct dpb_program *program)
{
	mutex_lock(&dpb_programs_lock);
	list_del_init(&program->list);
	mutex_unlock(&dpb_programs_lock);
}

static int dpb_module_event(struct notifier_block *self, unsigned long event,
			    void *data)
{
	const struct module *module = data;
	struct dpb_program *program;

	mutex_lock(&dpb_programs_lock);
	list_for_each_entry(program, &dpb_programs, list) {
		if (event == MODULE_STATE_COMING)
			dpb_module_came(program, module);
		else
			dpb_take_out(program, module, event == MODULE_STATE_LIVE);
	}
	mutex_unlock(&dpb_programs_lock);
	return NOTIFY_DONE;
}

/* Before the kernel's own (0), which gives up probes in what goes. */
static struct notifier_block dpb_module_events = {
	.notifier_call = dpb_module_event,
	.priority = 1,
};

/**
 * dpb_modules_init() - begin to hear of modules
 *
 * Return: 0, -ENOMEM.
 */
int dpb_modules_init(void)
{
	return dpb_fails() ? -ENOMEM :
			     register_module_notifier(&dpb_module_events);
}

/**
 * dpb_modules_exit() - undo dpb_modules_init()
 */
void dpb_modules_exit(void)
{
	WARN_ON(!list_empty(&dpb_programs));
	unregister_module_notifier(&dpb_module_events);
}
